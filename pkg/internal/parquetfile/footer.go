package parquetfile

// addGroup adds the metadata of a row group to the footer. start is the offset of the row
// group in the file.
func (w *Writer) addGroup(g *RowGroup, start int64) {
	t := &w.groups
	t.open() // RowGroup
	t.list(1, thriftStruct, len(g.chunks))
	at, raw := start, int64(0)
	for i := range g.chunks {
		t.chunk(&g.columns[i], &g.chunks[i], g.Rows, at)
		at += int64(len(g.chunks[i].data))
		raw += g.chunks[i].raw
	}
	t.i64(2, raw)
	t.i64(3, int64(g.Rows))
	t.i64(5, start)
	t.i64(6, at-start)
	t.end()
	w.count++
	w.rows += int64(g.Rows)
}

// chunk appends the ColumnChunk that describes c, whose first page is at the given offset
// in the file.
func (t *compact) chunk(col *Column, c *chunk, rows int, at int64) {
	t.open()
	t.i64(2, 0) // file_offset, deprecated but required
	t.begin(3)  // ColumnMetaData
	t.i32(1, col.Type.physical())
	encodings := []int{c.encoding, rle}
	if c.dictionary > 0 {
		encodings = append(encodings, plain) // encoding of the dictionary
	}
	t.list(2, thriftI32, len(encodings))
	for _, e := range encodings {
		t.uvarint(zigzag(int64(e)))
	}
	t.list(3, thriftBinary, 1)
	t.element(col.Name)
	t.i32(4, codecZstd)
	t.i64(5, int64(rows))
	t.i64(6, c.raw)
	t.i64(7, int64(len(c.data)))
	t.i64(9, at+int64(c.dictionary))
	if c.dictionary > 0 {
		t.i64(11, at)
	}
	t.begin(12) // Statistics
	t.i64(3, int64(c.nulls))
	if c.max != nil {
		t.bytes(5, c.max)
		t.bytes(6, c.min)
	}
	t.end()
	if c.dictionary > 0 {
		t.list(13, thriftStruct, 2)
		t.pageEncoding(dictionaryPage, plain, 1)
	} else {
		t.list(13, thriftStruct, 1)
	}
	t.pageEncoding(dataPage, c.encoding, c.pages)
	t.end()
	t.end()
}

// pageEncoding appends a PageEncodingStats: the number of pages with the given kind and
// encoding. Readers use it to detect chunks whose values are all in the dictionary.
func (t *compact) pageEncoding(kind, encoding, pages int) {
	t.open()
	t.i32(1, kind)
	t.i32(2, encoding)
	t.i32(3, pages)
	t.end()
}

// footer returns the encoded FileMetaData.
func (w *Writer) footer(metadata [][2]string) []byte {
	t := new(compact)
	t.open()    // FileMetaData
	t.i32(1, 2) // version
	t.list(2, thriftStruct, 1+len(w.schema.Columns))
	t.open() // SchemaElement of the root
	t.i32(3, 0)
	t.text(4, w.schema.Name)
	t.i32(5, len(w.schema.Columns))
	t.end()
	for _, c := range w.schema.Columns {
		t.column(c)
	}
	t.i64(3, w.rows)
	t.list(4, thriftStruct, w.count)
	t.b = append(t.b, w.groups.b...)
	if len(metadata) > 0 {
		t.list(5, thriftStruct, len(metadata))
		for _, kv := range metadata {
			t.open()
			t.text(1, kv[0])
			t.text(2, kv[1])
			t.end()
		}
	}
	t.text(6, w.schema.CreatedBy)
	t.list(7, thriftStruct, len(w.schema.Columns))
	for range w.schema.Columns {
		t.open() // ColumnOrder: without it readers ignore min_value and max_value
		t.empty(1)
		t.end()
	}
	t.end()
	return t.b
}

// physical returns the number by which the file format identifies the physical type of t.
func (t Type) physical() int {
	switch t {
	case Boolean:
		return 0
	case Double:
		return 5
	case String:
		return 6 // BYTE_ARRAY
	}
	return 2 // INT64
}

// column appends the SchemaElement that describes c. If c has a logical type, the element
// also contains the converted type, for older readers.
func (t *compact) column(c Column) {
	t.open()
	t.i32(1, c.Type.physical())
	t.i32(3, 1) // OPTIONAL
	t.text(4, c.Name)
	switch c.Type {
	case String:
		t.i32(6, 0) // UTF8
		t.begin(10)
		t.empty(1) // STRING
		t.end()
	case Timestamp:
		t.i32(6, 10) // TIMESTAMP_MICROS
		t.begin(10)
		t.begin(8)         // TIMESTAMP
		t.boolean(1, true) // adjusted to UTC
		t.begin(2)
		t.empty(2) // MICROS
		t.end()
		t.end()
		t.end()
	}
	t.end()
}
