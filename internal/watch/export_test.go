package watch

import "time"

// Recents sets how many of the newest full data tiles are looked at every 25 s.
func (w *Watcher) Recents(tiles int64) { w.recent.most = tiles }

// Remembered returns how many objects of theirs are remembered.
func (w *Watcher) Remembered() int { return len(w.recent.objects) }

// StopSweep lets no older tile be swept any more.
func (w *Watcher) StopSweep() { w.sweptAt = w.cfg.Now().Add(1000 * time.Hour) }
