-- +goose Up
-- Exceptions that people added beside those of the configuration. No row is ever
-- deleted or changed, but that its removal is noted.
CREATE TABLE exceptions (
    seq            INTEGER PRIMARY KEY,
    id             TEXT NOT NULL UNIQUE,
    code           TEXT NOT NULL,
    repository     TEXT NOT NULL,
    digest         TEXT NOT NULL,
    owner          TEXT NOT NULL,
    reason         TEXT NOT NULL,
    expires        INTEGER NOT NULL,
    added          INTEGER NOT NULL,
    added_by       TEXT NOT NULL,
    removed        INTEGER NOT NULL DEFAULT 0,
    removed_by     TEXT NOT NULL DEFAULT '',
    removed_reason TEXT NOT NULL DEFAULT ''
) STRICT;

-- Which exceptions a judgement used, those of the configuration among them.
CREATE TABLE exception_uses (
    exception TEXT NOT NULL,
    judgement TEXT NOT NULL,
    PRIMARY KEY (exception, judgement)
) STRICT, WITHOUT ROWID;

-- What candidate policies would have decided otherwise.
CREATE TABLE trials (
    revision  TEXT NOT NULL,
    judgement TEXT NOT NULL,
    action    TEXT NOT NULL,
    reasons   TEXT NOT NULL,
    failed    INTEGER NOT NULL,
    tried     INTEGER NOT NULL,
    PRIMARY KEY (revision, judgement)
) STRICT, WITHOUT ROWID;

-- How often each candidate was asked.
CREATE TABLE trial_counts (
    revision TEXT PRIMARY KEY,
    tried    INTEGER NOT NULL,
    failed   INTEGER NOT NULL,
    missed   INTEGER NOT NULL,
    first    INTEGER NOT NULL,
    last     INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- +goose Down
DROP TABLE trial_counts;
DROP TABLE trials;
DROP TABLE exception_uses;
DROP TABLE exceptions;
