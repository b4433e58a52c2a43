-- name: role_exists
-- $1 name.
SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1);

-- name: create_role
-- $1 name, $2 password: the statement that makes a user.
SELECT format('CREATE ROLE %I LOGIN PASSWORD %L', $1::text, $2::text);

-- name: database_exists
-- $1 name.
SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1);

-- name: create_database
-- $1 name, $2 owner: the statement that makes a database whose text sorts as bytes.
SELECT format('CREATE DATABASE %I OWNER %I ENCODING ''UTF8'' TEMPLATE template0 LC_COLLATE ''C'' LC_CTYPE ''C''', $1::text, $2::text);

-- name: grant_schema
-- $1 user: the statement that lets a user make tables in a database that another one owns.
SELECT format('GRANT CREATE, USAGE ON SCHEMA public TO %I', $1::text);
