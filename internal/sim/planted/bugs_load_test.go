package planted

// loadBugs are about what a start or a reload does.
var loadBugs = []bug{
	{"what is public is taken for what is committed", noFork, in("sequencer/load.go", `	if err := s.checkOrder(public, raw, head); err != nil {
		return nil, err
	}
`, `	if raw != nil {
		head = public
	}
`)},
	{"a committed round is not finished", onwards, in("sequencer/load.go", `	if public.Tree.N < head.Tree.N {
		if err := s.recover`, `	if public.Tree.N > head.Tree.N {
		if err := s.recover`)},
	{"the checkpoint is published before the committed round is finished", readable, in("sequencer/load.go", `	if public.Tree.N < head.Tree.N {
		if err := s.recover`, `	if raw != nil && public.Tree.N < head.Tree.N {
		if err := s.publishCheckpoint(ctx, held.Body, head, public); err != nil {
			return nil, err
		}
		if err := s.recover`)},
	{"the state is kept after a failed round", readable, []edit{
		{"sequencer/round.go", `		if err := l.s.publish(ctx, bundle, objects); err != nil {
			return err
`, `		if err := l.s.publish(ctx, bundle, objects); err != nil {
			*l = next
			return err
`},
		{"sequencer/loop.go", `		if state != nil {
			state = nil
`, `		if state != nil && (isFatal(err) || errors.Is(err, errSuperseded)) {
			state = nil
`},
	}},
	{"a log that failed is not loaded again", onwards, in("sequencer/loop.go", `		if s.isHalted() {
			break
		}
		if isFatal(err) {`, `		if s.isHalted() || state == nil {
			break
		}
		if isFatal(err) {`)},
}

// placeBugs give entries wrong places.
var placeBugs = []bug{
	{"entries are answered with the index after them", noLoss, in("sequencer/round.go", `	l.answer(p, old)

`, `	l.answer(p, l.head.Tree.N)

`)},
	{"a repeated entry gets the timestamp of the round", once, in("sequencer/round.go", `			if fresh[i] {
				placements[i].Index += old
				placements[i].TimestampMillis = l.head.TimestampMillis
			}
`, `			if fresh[i] {
				placements[i].Index += old
			}
			placements[i].TimestampMillis = l.head.TimestampMillis
`)},
	{"an entry that comes again after a lost answer is off by one", noLoss, in("sequencer/round.go", `entry.Placement{Index: old + int64(i), TimestampMillis: timestamp})`, `entry.Placement{Index: old + int64(i) + 1, TimestampMillis: timestamp})`)},
	{"an entry that comes again after a restart is off by one", noLoss, in("sequencer/load.go", `		index.add(e.Key, e.Placement)
`, `		e.Placement.Index++
		index.add(e.Key, e.Placement)
`)},
	{"placements are remembered before the commit, and over a reload", noLoss, []edit{
		{"sequencer/round.go", `		if err := l.stage(ctx, next.head.Tree, bundle); err != nil {
`, `		for i, e := range p.entries {
			l.recent.add(e.Key(), entry.Placement{Index: l.head.Tree.N + int64(i), TimestampMillis: timestamp})
		}
		if err := l.stage(ctx, next.head.Tree, bundle); err != nil {
`},
		{"sequencer/sequencer.go", `type Sequencer struct {
`, `type Sequencer struct {
	remembered *recent
`},
		{"sequencer/load.go", `	index := newRecent(recentLimit)
`, `	if s.remembered != nil {
		return s.remembered, nil
	}
	index := newRecent(recentLimit)
	s.remembered = index
`},
	}},
	{"a known entry is answered at once with where the round would put it", noLoss, in("sequencer/round.go", `				p.placements, p.fresh = append(p.placements, pl), append(p.fresh, false)
`, `				p.placements, p.fresh = append(p.placements, pl), append(p.fresh, true)
`)},
	{"two entries of a round get one index", once, in("sequencer/round.go", `				off = int64(len(p.entries))
				offsets`, `				off = int64(len(p.entries)) / 2
				offsets`)},
}

// lifeBugs are about queues, waiting and the end of a log.
var lifeBugs = []bug{
	{"after every failed round the log says that it is read-only", onwards, in("sequencer/loop.go", `	if errors.Is(err, entry.ErrReadOnly) {
		return entry.ErrReadOnly
	}
	for`, `	if err != nil {
		return entry.ErrReadOnly
	}
	for`)},
	{"whoever was superseded stops for good", onwards, in("sequencer/loop.go", `		if isFatal(err) {
			s.fail`, `		if isFatal(err) || errors.Is(err, errSuperseded) {
			s.fail`)},
}
