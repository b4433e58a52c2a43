"""All durable state: PostgreSQL. SQL lives in `sql/`; nothing outside this package imports the driver."""
