package packages

import (
	"errors"
	"fmt"
	"strings"
)

// The bounds that Linux has for names, so that no layer which unpacks is
// refused.
const (
	maxPath = 4096
	maxName = 255
	maxLink = 40 // symbolic links on the way to one file
)

var (
	errTooManyFiles = fmt.Errorf("%w: too many files", ErrLimit)
	errLoop         = errors.New("symbolic links go round in circles")
)

// tree is the image's file system as far as it has been read.
type tree struct {
	root  *node
	made  int // names, counting each as often as it was made
	limit int

	// names and nodes are the way to the node that find found last.
	names []string
	nodes []*node
}

// node is a name. It has no inode while only a record speaks of it.
type node struct {
	*inode
	children map[string]*node

	// hidden is the layer whose whiteouts have been applied to all that is
	// below: in one layer, nothing has to be hidden twice.
	hidden int16
	marks  marks
}

// inode is what names share when they are hard links.
type inode struct {
	kind         kind
	setuid       bool // or setgid
	executable   bool
	elf          bool
	capabilities bool
	layer        int16
	size         int64
	link         string    // of a symbolic link
	sums         *sums     // of a regular file
	database     *captured // its content, if the spool has it
}

type kind uint8

const (
	folder kind = iota
	regular
	symlink
	other
)

func newTree(limit int) *tree {
	return &tree{root: &node{inode: &inode{}}, limit: limit}
}

func (n *node) is(k kind) bool { return n != nil && n.inode != nil && n.kind == k }

// find goes to a name, following links in the image's own root; nil when there
// is no such thing. The last component is followed only when asked for.
func (t *tree) find(name string, follow bool) *node {
	n, _ := t.walk(name, follow, -1)
	return n
}

// make goes to a name as find does and makes what is missing on the way, as
// folders of the given layer. The last component may still lack an inode.
func (t *tree) make(name string, layer int16) (*node, error) {
	return t.walk(name, false, layer)
}

func (t *tree) walk(name string, follow bool, layer int16) (*node, error) {
	t.names, t.nodes = t.names[:0], append(t.nodes[:0], t.root)
	links := 0
	for rest := name; rest != ""; {
		var part string
		part, rest, _ = strings.Cut(rest, "/")
		at := t.nodes[len(t.nodes)-1]
		switch part {
		case "", ".":
			continue
		case "..":
			if len(t.names) > 0 {
				t.names, t.nodes = t.names[:len(t.names)-1], t.nodes[:len(t.nodes)-1]
			}
			continue
		}
		if layer >= 0 && at.kind != folder {
			// A folder that a layer only implies takes the place of a file.
			at.inode, at.children = &inode{layer: layer}, nil
		}
		var next *node
		if at.is(folder) {
			next = at.children[part]
		}
		if next == nil || next.inode == nil {
			if layer < 0 {
				return nil, nil
			}
			if next == nil {
				var err error
				if next, err = t.add(at, part, layer); err != nil {
					return nil, err
				}
			}
			if rest != "" {
				next.inode = &inode{layer: layer}
			}
		}
		if next.is(symlink) && (rest != "" || follow) {
			if links++; links > maxLink {
				return nil, errLoop
			}
			if strings.HasPrefix(next.link, "/") {
				t.names, t.nodes = t.names[:0], t.nodes[:1]
			}
			if rest == "" {
				rest = next.link
			} else {
				rest = next.link + "/" + rest
			}
			continue
		}
		t.names, t.nodes = append(t.names, part), append(t.nodes, next)
	}
	return t.nodes[len(t.nodes)-1], nil
}

func (t *tree) add(at *node, name string, layer int16) (*node, error) {
	if t.made++; t.made > t.limit {
		return nil, errTooManyFiles
	}
	if at.children == nil {
		at.children = map[string]*node{}
	}
	n := &node{hidden: layer}
	// The name is a part of a longer string that need not stay in memory.
	at.children[strings.Clone(name)] = n
	return n, nil
}

// path is the way, without a leading slash and links, to what find or make found
// last.
func (t *tree) path() string { return strings.Join(t.names, "/") }

// remove applies a whiteout: it takes away what lower layers have under a name.
func (t *tree) remove(name string, layer int16) {
	n := t.find(name, false)
	if n == nil || len(t.names) == 0 {
		return
	}
	parent, last := t.nodes[len(t.nodes)-2], t.names[len(t.names)-1]
	if !n.hide(layer) {
		delete(parent.children, last)
	}
}

// empty applies an opaque whiteout: it takes away what lower layers have in a
// folder.
func (t *tree) empty(name string, layer int16) {
	n := t.find(name, true)
	if !n.is(folder) || n.hidden == layer {
		return
	}
	n.hidden = layer
	for name, child := range n.children {
		if !child.hide(layer) {
			delete(n.children, name)
		}
	}
}

// hide takes away what is older than the layer and says whether anything is
// left.
func (n *node) hide(layer int16) bool {
	left := n.inode != nil && n.layer >= layer
	if n.hidden != layer {
		n.hidden = layer
		for name, child := range n.children {
			if !child.hide(layer) {
				delete(n.children, name)
			}
		}
	}
	return left || len(n.children) > 0
}
