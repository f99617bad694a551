package planted

// commitBugs break the order of a commit.
var commitBugs = []bug{
	{"stage and commit are swapped", noLoss, []edit{
		{"sequencer/round.go", `		if err := l.stage(ctx, next.head.Tree, bundle); err != nil {
			return err
		}
	} else if err`, "\t} else if err"},
		{"sequencer/round.go", `	raw, err := l.signAndCommit(ctx, &next, looked)
	if err != nil {
		return err
	}
`, `	raw, err := l.signAndCommit(ctx, &next, looked)
	if err != nil {
		return err
	}
	if len(p.entries) > 0 {
		if err := l.stage(ctx, next.head.Tree, bundle); err != nil {
			return err
		}
	}
`},
	}},
	{"a round that could not be staged is committed all the same", noLoss, in("sequencer/round.go", `		return fmt.Errorf("stage: %w", err)
`, `		l.s.cfg.Logger.Warn("stage", "err", err)
`)},
	{"tiles are published before the commit", onwards, in("sequencer/round.go", `	raw, err := l.signAndCommit(ctx, &next, looked)
	if err != nil {
		return err
	}
	if len(p.entries) > 0 {
		if err := l.s.publish(ctx, bundle, objects); err != nil {
			return err
		}
	}
`, `	if len(p.entries) > 0 {
		if err := l.s.publish(ctx, bundle, objects); err != nil {
			return err
		}
	}
	raw, err := l.signAndCommit(ctx, &next, looked)
	if err != nil {
		return err
	}
`)},
	{"the checkpoint is published before its tiles", readable, in("sequencer/round.go", `	if len(p.entries) > 0 {
		if err := l.s.publish(ctx, bundle, objects); err != nil {
			return err
		}
	}
	if err := l.s.publishCheckpoint(ctx, raw, next.head, l.head); err != nil {
		return err
	}
`, `	if err := l.s.publishCheckpoint(ctx, raw, next.head, l.head); err != nil {
		return err
	}
	if len(p.entries) > 0 {
		if err := l.s.publish(ctx, bundle, objects); err != nil {
			return err
		}
	}
`)},
	{"the checkpoint is published before the commit", forwards, in("sequencer/round.go", `	l.s.signed.Store(next.head.TimestampMillis)
`, `	l.s.signed.Store(next.head.TimestampMillis)
	if err := l.s.publishCheckpoint(ctx, raw, next.head, l.head); err != nil {
		return nil, err
	}
`)},
	{"publishing waits for the first tile only", readable, in("sequencer/round.go", `			return contain.Run(func() error { return s.create(ctx, o) })
		})
	}
	if err := g.Wait(); err != nil {`, `			return contain.Run(func() error { return s.create(context.WithoutCancel(ctx), o) })
		})
	}
	if err := s.create(ctx, objects[0]); err != nil {`)},
	{"the batchers are answered before anything is public", noLoss, in("sequencer/round.go", `	raw, err := l.signAndCommit(ctx, &next, looked)
	if err != nil {
		return err
	}
	if len(p.entries) > 0 {
		if err := l.s.publish(ctx, bundle, objects); err != nil {
			return err
		}
	}
	if err := l.s.publishCheckpoint(ctx, raw, next.head, l.head); err != nil {
		return err
	}
	if l.s.isHalted() {
		return errHalted // what was found is about this very log: promise nothing on it
	}
	l.finish(&next, p, began)
`, `	raw, err := l.signAndCommit(ctx, &next, looked)
	if err != nil {
		return err
	}
	old := *l
	l.finish(&next, p, began)
	*l, next = old, *l
	if len(p.entries) > 0 {
		if err := l.s.publish(ctx, bundle, objects); err != nil {
			return err
		}
	}
	if err := l.s.publishCheckpoint(ctx, raw, next.head, l.head); err != nil {
		return err
	}
	*l = next
`)},
	{"an error of publishing the checkpoint is logged and forgotten", noLoss, in("sequencer/round.go", `	return fmt.Errorf("publish checkpoint: %w", err)
`, `	s.cfg.Logger.Warn("publish checkpoint", "err", err)
	return nil
`)},
	{"the bundle is dropped before its round is public", noLoss, []edit{
		{"sequencer/round.go", `	raw, err := l.signAndCommit(ctx, &next, looked)
	if err != nil {
		return err
	}
`, `	raw, err := l.signAndCommit(ctx, &next, looked)
	if err != nil {
		return err
	}
	l.s.dropStaged(l.head.Tree)
`},
		{"sequencer/round.go", `	l.finish(&next, p, began)
	l.s.dropStaged(l.head.Tree)
`, `	l.finish(&next, p, began)
`},
	}},
	{"the second opinion is skipped", honestly, in("sequencer/round.go", `	objects, err := tiles.Verify(tiles.Round{
		Old: l.head.Tree, New: next.head.Tree, Edge: l.edge,
		Bundle: bundle, Entries: entries, TimestampMillis: timestamp,
	})
`, `	objects, err := tiles.DecodeBundle(bundle)
`)},
	{"the second opinion does not compare entries with their digests of admission", honestly, in("tiles/verify.go", `	if l.pending.Digest() != v.round.Entries[index-v.round.Old.N].Digest() {
		return fmt.Errorf("entry %d is not what was admitted: some of its bytes changed since", index)
	}
`, "")},
	{"a checkpoint that changed in memory while it was committed is published", forwards, in("sequencer/round.go", `	if !bytes.Equal(raw, signed) {
`, `	if !bytes.Equal(raw[:3], signed[:3]) {
`)},
}

// lockBugs are about the lock, the fence and the clock.
var lockBugs = []bug{
	{"a conflict of the swap is taken for done", noFork, in("sequencer/round.go", `			return lock.Held{}, fmt.Errorf("commit size and time in the lock: %w", errSuperseded)
`, `			return cur, nil
`)},
	{"a conflict of the swap is tried again on what is there now", noFork, in("sequencer/round.go", `			return lock.Held{}, fmt.Errorf("commit size and time in the lock: %w", errSuperseded)
`, `			l.held = cur
			continue
`)},
	{"the swap does not name the version it replaces", noFork, in("sequencer/round.go", `		held, err := l.s.lock.Replace(ctx, l.held, raw)
`, `		cell, err := l.s.lock.Load(ctx, cfg.LockID)
		if err != nil {
			last = err
			continue
		}
		held, err := l.s.lock.Replace(ctx, cell, raw)
`)},
	{"the version of the lock is read again when loading ends", noFork, in("sequencer/load.go", `	s.latest.Store(&head)
	s.staged`, `	if again, err := s.lock.Load(ctx, s.cfg.LockID); err == nil {
		held = again
	}
	s.latest.Store(&head)
	s.staged`)},
	{"the fence of the checkpoint is dropped", forwards, in("sequencer/round.go", `		if old != c && !c.Newer(old) {
			return nil, errSuperseded
		}
`, `		_ = old
`)},
	{"the fence compares sizes alone", forwards, in("sequencer/round.go", `		if old != c && !c.Newer(old) {
`, `		if old.Tree.N > c.Tree.N {
`)},
	{"two checkpoints may have one timestamp", forwards, []edit{
		{"sequencer/round.go", "\tfor began := time.Now(); now <= last && last", "\tfor began := time.Now(); now < last && last"},
		{"sequencer/round.go", `	if now <= last {
		return 0, fatalf("clock`, `	if now < last {
		return 0, fatalf("clock`},
	}},
	{"a clock that was set back is followed", forwards, in("sequencer/round.go", `	if now <= last {
		return 0, fatalf("clock`, `	if now < 0 {
		return 0, fatalf("clock`)},
	{"the checkpoint is signed with a look at the clock of its own", forwards, in("sequencer/round.go", "l.s.signer.Sign(next.head.Tree, next.head.TimestampMillis)", "l.s.signer.Sign(next.head.Tree, l.s.cfg.Now().UnixMilli())")},
}
