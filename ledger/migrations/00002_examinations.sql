-- +goose Up
-- What the check of an image's packages found, as compressed JSON. below is how
-- many of its layers were taken for its parent's.
CREATE TABLE examinations (
    digest   TEXT NOT NULL,
    below    INTEGER NOT NULL,
    failure  TEXT NOT NULL,
    report   BLOB NOT NULL,
    examined INTEGER NOT NULL,
    PRIMARY KEY (digest, below)
) STRICT, WITHOUT ROWID;

-- +goose Down
DROP TABLE examinations;
