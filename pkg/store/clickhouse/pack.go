package clickhouse

import (
	"encoding/binary"
	"sync"

	"github.com/go-faster/city"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
)

// packer compresses the body of a request as ClickHouse's own protocol does:
// blocks of a checksum (CityHash128 of version 1.0.2), a method, the size of
// method, sizes and data, the size of the text, and the data. Servers of all
// versions take that over HTTP; of compressed HTTP, old ones take gzip only.
type packer struct {
	method byte // 0: none
	lz4    lz4.Compressor
	zstd   *zstd.Encoder
}

// Methods of compression.
const (
	methodLZ4  = 0x82
	methodZSTD = 0x90
)

// packBlock is how much text goes into a compressed block. Servers make theirs
// of at most 1 MiB.
const packBlock = 1 << 20

// checksumSize and headerSize are the parts before the data of a block.
const (
	checksumSize = 16
	headerSize   = 9
)

var zstdEncoder = sync.OnceValue(func() *zstd.Encoder {
	e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderCRC(false))
	if err != nil {
		panic(err) // of constant options
	}
	return e
})

func newPacker(compress string) *packer {
	switch compress {
	case "lz4":
		return &packer{method: methodLZ4}
	case "zstd":
		return &packer{method: methodZSTD, zstd: zstdEncoder()}
	}
	return &packer{}
}

// pack appends src to dst, compressed.
func (p *packer) pack(dst, src []byte) []byte {
	if p.method == 0 {
		return append(dst, src...)
	}
	for len(src) > 0 {
		part := src[:min(len(src), packBlock)]
		src = src[len(part):]
		dst = p.block(dst, part)
	}
	return dst
}

func (p *packer) block(dst, part []byte) []byte {
	start := len(dst)
	dst = append(dst, make([]byte, checksumSize+headerSize)...)
	data := len(dst)
	if p.method == methodZSTD {
		dst = p.zstd.EncodeAll(part, dst)
	} else {
		bound := lz4.CompressBlockBound(len(part))
		dst = append(dst, make([]byte, bound)...)
		n, err := p.lz4.CompressBlock(part, dst[data:])
		if err != nil {
			panic(err) // the room is what it asked for
		}
		dst = dst[:data+n]
	}
	head := dst[start+checksumSize:]
	head[0] = p.method
	binary.LittleEndian.PutUint32(head[1:], uint32(len(head)))
	binary.LittleEndian.PutUint32(head[5:], uint32(len(part)))
	sum := city.CH128(head)
	binary.LittleEndian.PutUint64(dst[start:], sum.Low)
	binary.LittleEndian.PutUint64(dst[start+8:], sum.High)
	return dst
}
