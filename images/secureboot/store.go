package secureboot

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"unicode/utf16"
)

// Of EDK2's variable store (MdeModulePkg/Include/Guid/VariableFormat.h, AUTHENTICATED_VARIABLE_HEADER).
const (
	volumeSignatureAt, volumeSignature = 40, "_FVH"
	volumeHeaderAt                     = 48 // 16 bits: the size of the volume's header
	storeHeader                        = 28
	storeSizeAt                        = 16
	variableHeader                     = 60
	variableStart, variableAdded       = 0x55aa, 0x3f
)

var storeGUID = guid{0x78, 0x2c, 0xf3, 0xaa, 0x7b, 0x94, 0x9a, 0x43, 0xa1, 0x80, 0x2e, 0x14, 0x4e, 0xc3, 0x77, 0x92}

// Enrol puts the keys into a virtual machine's UEFI variables (OVMF_VARS), which must have none of them yet: the machine
// then starts only what they have signed.
func (k *Keys) Enrol(vars []byte) ([]byte, error) {
	le := binary.LittleEndian
	if len(vars) < volumeHeaderAt+2 || string(vars[volumeSignatureAt:][:4]) != volumeSignature {
		return nil, errors.New("this is no file of UEFI variables: it has no firmware volume")
	}
	store := int(le.Uint16(vars[volumeHeaderAt:]))
	if len(vars) < store+storeHeader || !bytes.Equal(vars[store:][:16], storeGUID[:]) {
		return nil, errors.New("this is no file of UEFI variables with signatures")
	}
	end := store + int(le.Uint32(vars[store+storeSizeAt:]))
	if end > len(vars) {
		return nil, errors.New("the UEFI variables are cut off")
	}
	at := store + storeHeader
	for at+variableHeader <= end && le.Uint16(vars[at:]) == variableStart {
		name, data := le.Uint32(vars[at+36:]), le.Uint32(vars[at+40:])
		if int64(at)+variableHeader+int64(name)+int64(data) > int64(end) {
			return nil, errors.New("the UEFI variables are broken: one is longer than their store")
		}
		if v := vars[at+variableHeader:][:name]; vars[at+2] == variableAdded && bytes.Equal(v, utf16Bytes(PK)) {
			return nil, errors.New("these UEFI variables have a platform key already")
		}
		at = (at + variableHeader + int(name) + int(data) + 3) &^ 3
	}
	out := bytes.Clone(vars)
	for _, name := range []string{DB, KEK, PK} {
		content, err := k.enrolled(name)
		if err != nil {
			return nil, err
		}
		v, text := variables[name], utf16Bytes(name)
		size := variableHeader + len(text) + len(content)
		if at+size > end {
			return nil, fmt.Errorf("no room for %s in the UEFI variables", name)
		}
		h := out[at:][:variableHeader]
		clear(h)
		le.PutUint16(h, variableStart)
		h[2] = variableAdded
		le.PutUint32(h[4:], secured)
		copy(h[16:], efiTime(k.Signer.NotBefore))
		le.PutUint32(h[36:], uint32(len(text)))
		le.PutUint32(h[40:], uint32(len(content)))
		copy(h[44:], v.vendor[:])
		copy(out[at+variableHeader:], text)
		copy(out[at+variableHeader+len(text):], content)
		at = (at + size + 3) &^ 3
	}
	return out, nil
}

// utf16Bytes is a variable's name as it lies in the store, with its end.
func utf16Bytes(s string) []byte {
	var b []byte
	for _, u := range append(utf16.Encode([]rune(s)), 0) {
		b = binary.LittleEndian.AppendUint16(b, u)
	}
	return b
}
