package rrdpush

import (
	"errors"
	"fmt"
	"math"
	"path/filepath"

	"github.com/tstatrepo/tstatrepo/pkg/internal/graphite"
	"github.com/tstatrepo/tstatrepo/pkg/internal/remotewrite"
	"github.com/tstatrepo/tstatrepo/pkg/rrdfile"
)

// Listed is a data source of an RRD file, with the name of its metric at the destination.
type Listed struct {
	File    string            `json:"file"`               // path of the RRD file
	Metric  string            `json:"metric"`             // name at the destination; "": none
	Labels  map[string]string `json:"labels,omitempty"`   // nil: the destination has no labels
	Unit    string            `json:"unit"`               // see rrdfile.Unit
	LeftOut string            `json:"left_out,omitempty"` // why it is not pushed
}

// Series returns the metric with its labels, in the destination's notation.
func (l *Listed) Series() string {
	if l.Labels == nil {
		return l.Metric
	}
	return remotewrite.Join(l.Metric, l.Labels).String()
}

// List returns the data sources of the files that opt selects, with their names at the
// destination. It sends nothing and reads no state. If some folders or files cannot be
// read, List returns an error together with the data sources of the other files.
func List(opt Options) ([]Listed, error) {
	p, err := newPusher(opt)
	if err != nil {
		return nil, err
	}
	defer p.Close()
	p.sum = &Summary{}
	files, listErr := p.list()
	var list []Listed
	for _, f := range files {
		path := filepath.Join(f.dir, f.file)
		got, err := p.reader.Read(path, math.MaxInt64) // the header only
		if err != nil {
			p.fail(path, err)
			continue
		}
		for i, s := range got.Series {
			l := Listed{File: path, Metric: f.path, LeftOut: f.leftOut}
			if i == 0 {
				l.Unit = rrdfile.Unit(f.file)
			} else if p.Dest.exports() {
				l.LeftOut = "is not the first data source"
			} else if f.path != "" {
				l.Metric += "." + s.Source
			}
			l.Metric = graphite.CleanPath(l.Metric)
			if series, err := remotewrite.ParsePath(l.Metric); err == nil && p.Dest.labels() {
				l.Metric, l.Labels = series.Split()
			}
			list = append(list, l)
		}
	}
	if p.sum.Failed > 0 {
		listErr = errors.Join(listErr, fmt.Errorf("%d of %d files %w", p.sum.Failed, p.sum.Files, ErrFiles))
	}
	return list, listErr
}
