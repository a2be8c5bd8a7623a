package cache

import (
	"context"
	"fmt"
	"path/filepath"

	storagedriver "github.com/distribution/distribution/v3/registry/storage/driver"
	"github.com/distribution/distribution/v3/registry/storage/driver/factory"
	_ "github.com/distribution/distribution/v3/registry/storage/driver/filesystem" // registered for OpenDriver
	_ "github.com/distribution/distribution/v3/registry/storage/driver/inmemory"   // registered for OpenDriver
)

// filesystemDriver is the name of the one driver whose files this package
// opens itself.
const filesystemDriver = "filesystem"

// OpenDriver opens one of distribution's storage drivers, "filesystem" or
// "inmemory", with the parameters that its configuration documents.
//
// https://distribution.github.io/distribution/storage-drivers/
func OpenDriver(name string, parameters map[string]any) (storagedriver.StorageDriver, error) {
	switch name {
	case filesystemDriver:
		// Left out, the driver would write to a stock registry's own folder.
		if root, _ := parameters["rootdirectory"].(string); root == "" {
			return nil, fmt.Errorf("the %s storage driver needs a rootdirectory", name)
		}
	case "inmemory":
	default:
		return nil, fmt.Errorf("there is no storage driver %q here; use filesystem or inmemory", name)
	}
	driver, err := factory.Create(context.Background(), name, parameters)
	if err != nil {
		return nil, fmt.Errorf("opening the %s storage driver: %w", name, err)
	}
	return driver, nil
}

// filePath is where the filesystem driver keeps what it calls path.
func (c *Cache) filePath(path string) string {
	return filepath.Join(c.root, filepath.FromSlash(path))
}
