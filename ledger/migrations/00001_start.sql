-- +goose Up
-- Times are nanoseconds since 1970 in UTC.

-- What was judged, once per content, as compressed JSON.
CREATE TABLE inputs (
    digest  TEXT PRIMARY KEY,
    content BLOB NOT NULL
) STRICT, WITHOUT ROWID;

-- One row per judgement.
CREATE TABLE judgements (
    seq             INTEGER PRIMARY KEY,
    id              TEXT NOT NULL UNIQUE,
    key             TEXT NOT NULL,
    route           TEXT NOT NULL,
    name            TEXT NOT NULL,
    tag             TEXT NOT NULL,
    digest          TEXT NOT NULL,
    index_digest    TEXT NOT NULL,
    policy_revision TEXT NOT NULL,
    trust_revision  TEXT NOT NULL,
    evidence_digest TEXT NOT NULL,
    input_digest    TEXT NOT NULL,
    action          TEXT NOT NULL,
    before_mode     TEXT NOT NULL,
    reasons         TEXT NOT NULL,
    annotations     TEXT NOT NULL,
    detail          TEXT NOT NULL,
    judged_at       INTEGER NOT NULL,
    expires_at      INTEGER NOT NULL,
    took            INTEGER NOT NULL
) STRICT;
CREATE INDEX judgements_by_key ON judgements (key, seq);
CREATE INDEX judgements_by_manifest ON judgements (name, digest, seq);
CREATE INDEX judgements_by_time ON judgements (judged_at);

-- What a tag named when it was last resolved upstream.
CREATE TABLE tags (
    name     TEXT NOT NULL,
    tag      TEXT NOT NULL,
    digest   TEXT NOT NULL,
    resolved INTEGER NOT NULL,
    PRIMARY KEY (name, tag)
) STRICT, WITHOUT ROWID;

-- Which blobs a manifest refers to.
CREATE TABLE blobs (
    name       TEXT NOT NULL,
    blob       TEXT NOT NULL,
    manifest   TEXT NOT NULL,
    size       INTEGER NOT NULL,
    media_type TEXT NOT NULL,
    PRIMARY KEY (name, blob, manifest)
) STRICT, WITHOUT ROWID;

-- Which manifests an index lists.
CREATE TABLE members (
    name  TEXT NOT NULL,
    child TEXT NOT NULL,
    list  TEXT NOT NULL,
    PRIMARY KEY (name, child, list)
) STRICT, WITHOUT ROWID;

-- Stacks of layers by content, to find an image's base by what it is made of.
CREATE TABLE chains (
    chain  TEXT NOT NULL,
    name   TEXT NOT NULL,
    digest TEXT NOT NULL,
    depth  INTEGER NOT NULL,
    PRIMARY KEY (chain, name, digest)
) STRICT, WITHOUT ROWID;

-- Who pulled under which judgement, and how often.
CREATE TABLE pulls (
    id     TEXT NOT NULL,
    client TEXT NOT NULL,
    count  INTEGER NOT NULL,
    first  INTEGER NOT NULL,
    last   INTEGER NOT NULL,
    PRIMARY KEY (id, client)
) STRICT, WITHOUT ROWID;

-- +goose Down
DROP TABLE pulls;
DROP TABLE chains;
DROP TABLE members;
DROP TABLE blobs;
DROP TABLE tags;
DROP TABLE judgements;
DROP TABLE inputs;
