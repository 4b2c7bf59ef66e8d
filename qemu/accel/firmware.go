package accel

import "encoding/hex"

// code is this program, assembled (GNU as, 158 bytes), to be run at the start of a 64 KiB firmware:
//
//	.code16
//	.globl _start
//
// _start:
//
//	cli
//	ljmp $0xf000, $low
//
// low:
//
//	movb $'R', %al
//	outb %al, $0xe9
//	xorw %ax, %ax
//	movw %ax, %ds
//	movw %ax, %es
//	movw %ax, %ss
//	movw $0x7000, %sp
//	cld
//	movw $0x1000, %di
//	xorl %eax, %eax
//	movw $0xc00, %cx
//	rep stosl
//	movl $0x2003, 0x1000
//	movl $0x3003, 0x2000
//	movl $0x0083, 0x3000
//	lgdtl %cs:gdtr
//	movl $0x1000, %eax
//	movl %eax, %cr3
//	movl %cr4, %eax
//	orl $0x20, %eax
//	movl %eax, %cr4
//	movl $0xc0000080, %ecx
//	rdmsr
//	orl $0x100, %eax
//	wrmsr
//	movl %cr0, %eax
//	orl $0x80000001, %eax
//	movl %eax, %cr0
//	ljmpl $0x08, $(0xf0000 + long)
//	.code64
//
// long:
//
//	movb $'L', %al
//	outb %al, $0xe9
//	movb $16, %al
//	outb %al, $0xf4
//
// 1:	hlt
//
//	jmp 1b
//	.balign 8
//
// gdt:	.quad 0, 0x00209a0000000000
// gdtr:	.word 15
//
//	.long 0xf0000 + gdt
const code = "" +
	"faea060000f0b052e6e931c08ed88ec08ed0bc0070fcbf00106631c0b9000c66" +
	"f3ab66c70600100320000066c70600200330000066c7060030830000002e660f" +
	"0116980066b8001000000f22d80f20e06683c8200f22e066b9800000c00f3266" +
	"0d000100000f300f20c0660d010000800f22c066ea7b000f000800b04ce6e9b0" +
	"10e6f4f4ebfd6690000000000000000000000000009a20000f0088000f00"

const firmwareBytes = 64 << 10

// firmware is the image for -bios: the program at the start and, where an x86 begins after a reset, a
// jump to it.
func firmware() []byte {
	rom := make([]byte, firmwareBytes)
	program, err := hex.DecodeString(code)
	if err != nil {
		panic("accel: the probe program is not hex: " + err.Error())
	}
	copy(rom, program)
	copy(rom[0xfff0:], []byte{0xe9, 0x0d, 0x00}) // jmp 0x0000
	return rom
}
