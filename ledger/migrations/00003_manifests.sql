-- +goose Up
-- Which manifests a repository is known to have.
CREATE TABLE manifests (
    name   TEXT NOT NULL,
    digest TEXT NOT NULL,
    PRIMARY KEY (name, digest)
) STRICT, WITHOUT ROWID;
INSERT OR IGNORE INTO manifests SELECT DISTINCT name, manifest FROM blobs;
INSERT OR IGNORE INTO manifests SELECT DISTINCT name, list FROM members;

-- +goose Down
DROP TABLE manifests;
