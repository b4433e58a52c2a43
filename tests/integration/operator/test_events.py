"""Events on a real API server: a deed each, a failure once with a count, however often it happens and whoever restarts."""

from typing import Any

from mogile_operator.api.v1alpha1 import StorageCluster
from mogile_operator.events import REPEAT_SECONDS, Recorder
from mogile_operator.execute import Outcome
from mogile_operator.kube import Kube
from mogile_operator.plan.actions import Tell


def tell(reason: str) -> Tell:
    return Tell(scope="demo-main-0", reason=reason, command="set_state", args={})


async def recorded(kube: Kube, namespace: str) -> list[dict[str, Any]]:
    return (await kube.list("Event", namespace)).items


async def test_a_loop_that_fails_for_an_hour_is_one_event(kube: Kube, namespace: str) -> None:
    meta = {"name": "demo", "namespace": namespace, "uid": "u-1"}
    spec = {"database": {"managed": {}}, "storage": {"pools": [{"name": "main", "nodes": 1}]}}
    cluster = StorageCluster.model_validate({"metadata": meta, "spec": spec})
    now = 0.0
    recorder = Recorder(kube, "test", lambda: now)
    for attempt in range(60):
        await recorder.record(
            cluster, [Outcome(action=tell("device 1: drain"), error=f"no answer (attempt {attempt})")]
        )
        now += 60
    (event,) = await recorded(kube, namespace)
    assert event["reason"] == "ActionFailed"
    assert event["type"] == "Warning"
    counted = event["series"]["count"]
    assert 2 <= counted <= 60
    again = Recorder(kube, "restarted", lambda: now)
    await again.record(cluster, [Outcome(action=tell("device 1: drain"), error="no answer")])
    assert len(await recorded(kube, namespace)) == 1
    await again.record(cluster, [Outcome(action=tell("device 1: drain"), error=None)])
    await again.record(cluster, [Outcome(action=tell("device 1: dead, its claim is Lost"), error=None)])
    notes = {event["note"]: event["type"] for event in await recorded(kube, namespace)}
    assert notes["device 1: drain"] == "Normal"
    assert notes["device 1: dead, its claim is Lost"] == "Warning"
    assert len(notes) == 3
    assert REPEAT_SECONDS >= 60
