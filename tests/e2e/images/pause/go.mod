module mogile.storage/tests/pause

go 1.26.0
