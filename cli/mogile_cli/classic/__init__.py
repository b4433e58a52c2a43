"""The classic MogileFS command-line tools: same flags, configuration files, output forms and exit codes as MogileFS-Utils 2.30.

One module per tool family. `program` runs a tool and turns errors into its exit code, `getopt` reads command lines, `configuration` the
files, `connection` speaks to trackers, `nodes` to storage nodes (HTTP), `sql` to the database. Nothing else here does I/O.
`docs/reference/classic-tools.md` says where they differ from the originals on purpose.
"""
