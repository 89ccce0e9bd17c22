package filter

import (
	"cmp"

	"github.com/tstatrepo/tstatrepo/pkg/tstat"
)

// truth is the three-valued result of an expression for a row. The constants are ordered
// so that "and" is the minimum and "or" the maximum of its operands.
type truth uint8

const (
	no truth = iota
	unknown
	yes
)

// evaluator evaluates an expression for all rows of a batch. eval sets one element of out
// per row.
type evaluator interface {
	eval(b *tstat.Batch, out []truth)
}

// Select sets keep[i] to whether row i of the batch is selected, and returns the number
// of selected rows. keep must be at least as long as the batch.
func (p *Program) Select(b *tstat.Batch, keep []bool) (selected int) {
	if len(p.result) < b.Len() {
		p.result = make([]truth, b.Len())
	}
	out := p.result[:b.Len()]
	p.root.eval(b, out)
	for i, t := range out {
		keep[i] = t == yes
		if keep[i] {
			selected++
		}
	}
	return selected
}

// place is the position of a column in batches.
type place struct {
	name  string
	index int // in the columns of the log type; -1 for an optional column, which is found by name
}

// decoded returns the values of the column in b, and reports whether the log has the
// column.
func (p place) decoded(b *tstat.Batch) (tstat.Vector, bool) {
	i := p.index
	if i < 0 {
		i = b.ColumnIndex(p.name)
	}
	if i < 0 {
		return tstat.Vector{}, false
	}
	return b.Decoded(i)
}

type notEval struct{ x evaluator }

func (e *notEval) eval(b *tstat.Batch, out []truth) {
	e.x.eval(b, out)
	for i, t := range out {
		out[i] = yes - t
	}
}

// joinEval evaluates "and" or "or".
type joinEval struct {
	and  bool
	xs   []evaluator
	next []truth
}

func (e *joinEval) eval(b *tstat.Batch, out []truth) {
	e.xs[0].eval(b, out)
	if len(e.next) < len(out) {
		e.next = make([]truth, len(out))
	}
	next := e.next[:len(out)]
	for _, x := range e.xs[1:] {
		x.eval(b, next)
		if e.and {
			for i, t := range next {
				out[i] = min(out[i], t)
			}
		} else {
			for i, t := range next {
				out[i] = max(out[i], t)
			}
		}
	}
}

// nullEval evaluates "is null" or "is not null".
type nullEval struct {
	column place
	null   truth // the result for NULL
}

func (e *nullEval) eval(b *tstat.Batch, out []truth) {
	v, has := e.column.decoded(b)
	for i := range out {
		out[i] = e.null
		if has && v.Def[i] == 1 {
			out[i] = yes - e.null
		}
	}
}

// acceptance holds the results of an operator for a left side that is less than, equal to
// and greater than the right side, in this order.
type acceptance [3]truth

var accepts = map[string]acceptance{
	"=": {no, yes, no}, "!=": {yes, no, yes}, "<": {yes, no, no}, "<=": {yes, yes, no}, ">": {no, no, yes}, ">=": {no, yes, yes},
}

// beside returns the acceptance for a comparison in which an integer replaces the number
// on the right side. side is 1 if the number is greater than the integer, -1 if it is
// less, and 0 if they are equal.
func (a acceptance) beside(side int) acceptance {
	switch side {
	case 1:
		a[1] = a[0]
	case -1:
		a[1] = a[2]
	}
	return a
}

// reader returns the values of v that are not NULL. If they need a conversion, reader
// overwrites dst with the converted values and returns dst.
type reader[T any] func(v tstat.Vector, dst []T) []T

func ints(v tstat.Vector, _ []int64) []int64       { return v.Ints }
func floats(v tstat.Vector, _ []float64) []float64 { return v.Floats }

func boolInts(v tstat.Vector, dst []int64) []int64 {
	dst = dst[:0]
	for _, x := range v.Bools {
		if x {
			dst = append(dst, 1)
		} else {
			dst = append(dst, 0)
		}
	}
	return dst
}

func intFloats(v tstat.Vector, dst []float64) []float64 {
	dst = dst[:0]
	for _, x := range v.Ints {
		dst = append(dst, float64(x))
	}
	return dst
}

// texts returns the values of a column as strings. They share memory with the batch that
// contains v, so they are valid only as long as that batch.
func texts(v tstat.Vector, dst []string) []string {
	dst = dst[:0]
	for _, x := range v.Texts {
		dst = append(dst, tstat.String(x))
	}
	return dst
}

// ordered compares a column with a value.
type ordered[T cmp.Ordered] struct {
	column place
	read   reader[T]
	value  T
	accept acceptance
	buf    []T
}

func (e *ordered[T]) eval(b *tstat.Batch, out []truth) {
	v, has := e.column.decoded(b)
	if !has {
		clearTo(out, unknown)
		return
	}
	values := e.read(v, e.buf)
	e.buf = values
	for i, def := range v.Def {
		if def == 0 {
			out[i] = unknown
			continue
		}
		out[i] = e.accept[compare(values[0], e.value)+1]
		values = values[1:]
	}
}

// compare is like cmp.Compare, but treats NaN as greater than all other numbers.
func compare[T cmp.Ordered](a, b T) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	case a == b:
		return 0
	}
	return cmp.Compare(b, a) // a, b or both are NaN
}

// pairEval compares two columns.
type pairEval[T cmp.Ordered] struct {
	left, right         place
	readLeft, readRight reader[T]
	accept              acceptance
	bufLeft, bufRight   []T
}

func (e *pairEval[T]) eval(b *tstat.Batch, out []truth) {
	left, hasLeft := e.left.decoded(b)
	right, hasRight := e.right.decoded(b)
	if !hasLeft || !hasRight {
		clearTo(out, unknown)
		return
	}
	xs, ys := e.readLeft(left, e.bufLeft), e.readRight(right, e.bufRight)
	e.bufLeft, e.bufRight = xs, ys
	for i := range out {
		l, r := left.Def[i] == 1, right.Def[i] == 1
		if l && r {
			out[i] = e.accept[compare(xs[0], ys[0])+1]
		} else {
			out[i] = unknown
		}
		if l {
			xs = xs[1:]
		}
		if r {
			ys = ys[1:]
		}
	}
}

// matchEval tests each string in a column with match.
type matchEval struct {
	column place
	match  func(text []byte) bool
}

func (e *matchEval) eval(b *tstat.Batch, out []truth) {
	v, has := e.column.decoded(b)
	if !has {
		clearTo(out, unknown)
		return
	}
	texts := v.Texts
	for i, def := range v.Def {
		if def == 0 {
			out[i] = unknown
			continue
		}
		out[i] = no
		if e.match(texts[0]) {
			out[i] = yes
		}
		texts = texts[1:]
	}
}

func clearTo(out []truth, t truth) {
	for i := range out {
		out[i] = t
	}
}
