package demo

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"strings"
)

// mediaFiles are made rather than stored: a repository is no place for binaries.
func mediaFiles() (map[string][]byte, error) {
	picture, err := sky(480, 270)
	if err != nil {
		return nil, err
	}
	return map[string][]byte{"skein.svg": skein(), "sky.png": picture, "call.wav": call()}, nil
}

// skein draws geese in their V, the leader in front.
func skein() []byte {
	var b strings.Builder
	b.WriteString(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 480 270"><rect width="480" height="270" fill="#dfe9f3"/>` + "\n")
	for i := range 9 {
		rank, side := (i+1)/2, 1-2*(i%2)
		x, y := 380-rank*70, 135+side*rank*26
		fmt.Fprintf(&b, `<path d="M%d %d q -12 -14 -26 -8 q 14 2 20 12 q -8 8 -24 8 q 18 8 30 -12 z" fill="#333"/>`+"\n", x, y)
	}
	b.WriteString("</svg>\n")
	return []byte(b.String())
}

// sky is an evening sky, dithered by position so that it is the same on every machine.
func sky(w, h int) ([]byte, error) {
	img := image.NewRGBA(image.Rect(0, 0, w, h))
	for y := range h {
		for x := range w {
			f := y * 255 / h
			d := (x*7 + y*13) % 5
			img.SetRGBA(x, y, color.RGBA{uint8(40 + f*3/4 + d), uint8(60 + f/2 + d), uint8(140 + f/4 + d), 255})
		}
	}
	var b bytes.Buffer
	err := png.Encode(&b, img)
	return b.Bytes(), err
}

// call is two seconds of a rising triangle wave: 8 kHz, mono, 16 bit PCM (RIFF WAVE).
func call() []byte {
	const rate, seconds, bits = 8000, 2, 16
	samples := make([]int16, rate*seconds)
	phase := 0
	for i := range samples {
		phase = (phase + 220 + i/40) % rate // Hz, so that a period is rate
		v := phase * 4 * 8000 / rate
		switch {
		case v > 24000:
			v -= 32000
		case v > 8000:
			v = 16000 - v
		}
		samples[i] = int16(v)
	}
	var b bytes.Buffer
	size := uint32(len(samples) * bits / 8)
	for _, v := range []any{
		[]byte("RIFF"), 36 + size, []byte("WAVEfmt "), uint32(16), uint16(1), uint16(1),
		uint32(rate), uint32(rate * bits / 8), uint16(bits / 8), uint16(bits), []byte("data"), size, samples,
	} {
		_ = binary.Write(&b, binary.LittleEndian, v) // a bytes.Buffer takes everything
	}
	return b.Bytes()
}
