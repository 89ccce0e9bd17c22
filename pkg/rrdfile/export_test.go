package rrdfile

// ReadOnce is Read without retries.
func (r *Reader) ReadOnce(path string, after int64) (*File, error) { return r.read(path, after) }
