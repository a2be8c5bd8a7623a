-- +goose Up
-- When content of the cache was used last. What there is, the cache's storage
-- says itself.
CREATE TABLE uses (
    digest TEXT PRIMARY KEY,
    used   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- How far the scrub of the cache is: one row, or none before the first.
CREATE TABLE scrub (
    one      INTEGER PRIMARY KEY CHECK (one = 1),
    started  INTEGER NOT NULL,
    finished INTEGER NOT NULL,
    at       TEXT NOT NULL
) STRICT;

-- What happened to the gate itself and somebody should know of.
CREATE TABLE events (
    seq      INTEGER PRIMARY KEY,
    happened INTEGER NOT NULL,
    kind     TEXT NOT NULL,
    digest   TEXT NOT NULL,
    detail   TEXT NOT NULL
) STRICT;

-- +goose Down
DROP TABLE events;
DROP TABLE scrub;
DROP TABLE uses;
