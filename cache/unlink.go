package cache

import (
	"context"
	"fmt"
	"path"

	"github.com/opencontainers/go-digest"

	"github.com/trustgate/trustgate/oci"
)

// Unlink takes a manifest out of a repository, with the tags that name it there.
// Its content stays for others who may have it, and for the eviction.
func (c *Cache) Unlink(ctx context.Context, name string, d digest.Digest) error {
	if err := checkName(name); err != nil {
		return err
	}
	if _, err := oci.ParseDigest(d.String()); err != nil {
		return err
	}
	return c.removeLinks(name, d.String(), func() error {
		tags, err := list(ctx, c.driver, path.Dir(path.Dir(path.Dir(tagCurrentPath(name, "tag")))))
		if err != nil {
			return err
		}
		for _, folder := range tags {
			tag := path.Base(folder)
			if checkTag(tag) != nil {
				continue
			}
			raw, err := read(ctx, c.driver, tagCurrentPath(name, tag), linkLimit)
			if err != nil {
				return err
			}
			if string(raw) == d.String() {
				if err := c.removeFolder(ctx, folder); err != nil {
					return err
				}
			}
		}
		return c.removeFolder(ctx, path.Dir(revisionLinkPath(name, d)))
	})
}

// UnlinkTag takes a tag out of a repository, whatever it names.
func (c *Cache) UnlinkTag(ctx context.Context, name, tag string) error {
	if err := checkName(name); err != nil {
		return err
	}
	if err := checkTag(tag); err != nil {
		return err
	}
	return c.removeLinks(name, tag, func() error {
		return c.removeFolder(ctx, path.Dir(path.Dir(tagCurrentPath(name, tag))))
	})
}

func (c *Cache) removeLinks(name, what string, remove func() error) error {
	unlock, err := c.links.exclude()
	if err == nil {
		defer unlock()
		if err = c.links.change(removedMark); err == nil {
			err = remove()
		}
	}
	if err != nil {
		return fmt.Errorf("taking %s out of %s in the cache: %w", what, name, err)
	}
	return nil
}

func (c *Cache) removeFolder(ctx context.Context, folder string) error {
	if err := c.driver.Delete(ctx, folder); err != nil && !isPathNotFound(err) {
		return err
	}
	return nil
}
