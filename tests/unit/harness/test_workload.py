"""The workload is what the main story promises: 500 files, 1 B to 20 MB, 20 over 10 MB, over 500 MB, the same every time."""

from harness.workload import differences, sample_files


def test_sizes_are_what_the_story_promises() -> None:
    files = sample_files()
    assert len({file.key for file in files}) == 500
    assert min(file.length for file in files) == 1
    assert max(file.length for file in files) <= 20_000_000
    assert sum(file.length > 10_000_000 for file in files) == 20
    assert sum(file.length for file in files) > 500_000_000


def test_bodies_are_the_same_every_time_and_differ_between_files() -> None:
    first, second = sample_files(10, largest=1000), sample_files(10, largest=1000)
    assert [file.digest() for file in first] == [file.digest() for file in second]
    assert len({file.digest() for file in first if file.length > 8}) == sum(file.length > 8 for file in first)


def test_differences_names_what_is_wrong() -> None:
    good, short, wrong = sample_files(3, largest=1000)
    answers = {good.key: (good.length, good.digest()), short.key: (0, short.digest()), wrong.key: (wrong.length, "0")}
    assert differences(answers.__getitem__, [good]) == []
    assert len(differences(answers.__getitem__, [good, short, wrong])) == 2
