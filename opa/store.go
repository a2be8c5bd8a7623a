package opa

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/open-policy-agent/opa/v1/bundle"
	"github.com/open-policy-agent/opa/v1/plugins"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/storage/inmem"
	"github.com/open-policy-agent/opa/v1/util"

	"github.com/trustgate/trustgate/policy"
)

const maxData = 256 << 20 // bytes of the data of all bundles, as JSON

// checked is OPA's store with the gate's say in what is committed. A bundle is
// activated in one transaction, so one that is refused is for OPA a bundle whose
// activation failed: it is reported, retried, and never persisted.
type checked struct {
	storage.Store
	// accept is asked before a commit that activates, accepted told after it.
	accept   func(context.Context, *policy.Bundles) error
	accepted func(*policy.Bundles)
	refused  func(error)
	watching atomic.Bool // from the start of OPA's plugins to their end

	mu       sync.Mutex
	contexts map[uint64]*storage.Context // of the transactions that write
}

func newStore() *checked {
	return &checked{
		Store:    inmem.NewWithOpts(inmem.OptRoundTripOnWrite(false)),
		contexts: map[uint64]*storage.Context{},
	}
}

func (s *checked) NewTransaction(ctx context.Context, params ...storage.TransactionParams) (storage.Transaction, error) {
	txn, err := s.Store.NewTransaction(ctx, params...)
	if err == nil && len(params) > 0 && params[0].Write {
		s.mu.Lock()
		s.contexts[txn.ID()] = params[0].Context
		s.mu.Unlock()
	}
	return txn, err
}

func (s *checked) Abort(ctx context.Context, txn storage.Transaction) {
	s.forget(txn)
	s.Store.Abort(ctx, txn)
}

func (s *checked) forget(txn storage.Transaction) (of *storage.Context, writes bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	of, writes = s.contexts[txn.ID()]
	delete(s.contexts, txn.ID())
	return of, writes
}

func (s *checked) Commit(ctx context.Context, txn storage.Transaction) error {
	of, writes := s.forget(txn)
	if !writes || !s.watching.Load() {
		return s.Store.Commit(ctx, txn)
	}
	bundles, err := s.read(ctx, txn)
	if err == nil {
		err = s.accept(ctx, bundles)
	}
	if err != nil {
		s.refused(err)
		// OPA compiles for an activation only. It ends the process when it cannot
		// take back a bundle that is no longer configured, so that is let be.
		if plugins.GetCompilerOnContext(of) != nil {
			s.Store.Abort(ctx, txn)
			return err
		}
		return s.Store.Commit(ctx, txn)
	}
	if err := s.Store.Commit(ctx, txn); err != nil {
		return err
	}
	s.accepted(bundles)
	return nil
}

// read copies what the bundles consist of, as the transaction leaves it.
func (s *checked) read(ctx context.Context, txn storage.Transaction) (*policy.Bundles, error) {
	b := &policy.Bundles{Modules: map[string][]byte{}, Revisions: map[string]string{}}
	names, err := bundle.ReadBundleNamesFromStore(ctx, s.Store, txn)
	if err != nil && !storage.IsNotFound(err) {
		return nil, fmt.Errorf("reading the bundles: %w", err)
	}
	for _, name := range names {
		revision, err := bundle.ReadBundleRevisionFromStore(ctx, s.Store, txn, name)
		if err != nil && !storage.IsNotFound(err) {
			return nil, fmt.Errorf("reading the revision of the bundle %s: %w", name, err)
		}
		b.Revisions[name] = revision
		compiled, err := bundle.ReadWasmModulesFromStore(ctx, s.Store, txn, name)
		if err != nil && !storage.IsNotFound(err) {
			return nil, fmt.Errorf("reading the bundle %s: %w", name, err)
		}
		if len(compiled) > 0 {
			return nil, fmt.Errorf("the bundle %s holds WebAssembly (%s); only Rego can be checked and is loaded: build it without --target wasm",
				name, strings.Join(slices.Sorted(maps.Keys(compiled)), ", "))
		}
	}
	ids, err := s.ListPolicies(ctx, txn)
	if err != nil {
		return nil, fmt.Errorf("reading the modules of the bundles: %w", err)
	}
	for _, id := range ids {
		raw, err := s.GetPolicy(ctx, txn, id)
		if err != nil {
			return nil, fmt.Errorf("reading the module %s: %w", id, err)
		}
		b.Modules[strings.TrimPrefix(id, "/")] = slices.Clone(raw)
	}
	data, err := s.Read(ctx, txn, storage.RootPath)
	if err != nil {
		return nil, fmt.Errorf("reading the data of the bundles: %w", err)
	}
	root, ok := data.(map[string]any)
	if !ok {
		return nil, errors.New("the data of the bundles are no object")
	}
	root = maps.Clone(root)
	delete(root, "system") // OPA's own records, not the bundles' data
	raw, err := json.Marshal(root)
	if err != nil {
		return nil, fmt.Errorf("reading the data of the bundles: %w", err)
	}
	if len(raw) > maxData {
		return nil, fmt.Errorf("the data of the bundles have %d bytes, more than %d", len(raw), maxData)
	}
	return b, util.UnmarshalJSON(raw, &b.Data)
}
