package secureboot

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	encasn1 "encoding/asn1"
	"encoding/binary"
	"time"
	"unicode/utf16"

	"github.com/foxboron/go-uefi/pkcs7"
	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// signContent is a PKCS #7 message (RFC 2315 9) with one signature over content, which is in it if attached. It has the
// two attributes that must be there, and not the time, which the library's own would have.
func signContent(k *Keys, kind encasn1.ObjectIdentifier, content []byte, attached bool) ([]byte, error) {
	signed, err := signedData(k, kind, content, attached)
	if err != nil {
		return nil, err
	}
	var b cryptobyte.Builder
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1ObjectIdentifier(pkcs7.OIDSignedData)
		b.AddASN1(context0, func(b *cryptobyte.Builder) { b.AddBytes(signed) })
	})
	return b.Bytes()
}

var (
	context0      = asn1.Tag(0).ContextSpecific().Constructed()
	rsaEncryption = encasn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 1}
)

func signedData(k *Keys, kind encasn1.ObjectIdentifier, content []byte, attached bool) ([]byte, error) {
	digest := sha256.Sum256(content)
	attributes := (&pkcs7.Attributes{ContentType: kind, MessageDigest: digest[:]}).Marshal()
	// What is signed is a SET, what is in the message is the same under another tag.
	sum := sha256.Sum256(attributes)
	signature, err := k.key.Sign(rand.Reader, sum[:], crypto.SHA256) // PKCS #1 v1.5, which is the same each time
	if err != nil {
		return nil, err
	}
	algorithm := func(b *cryptobyte.Builder, id encasn1.ObjectIdentifier) {
		b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1ObjectIdentifier(id)
			b.AddASN1NULL()
		})
	}
	var b cryptobyte.Builder
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1Int64(1)
		b.AddASN1(asn1.SET, func(b *cryptobyte.Builder) { algorithm(b, pkcs7.OIDDigestAlgorithmSHA256) })
		b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1ObjectIdentifier(kind)
			if attached {
				b.AddASN1(context0, func(b *cryptobyte.Builder) {
					b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) { b.AddBytes(content) })
				})
			}
		})
		b.AddASN1(context0, func(b *cryptobyte.Builder) { b.AddBytes(k.Signer.Raw) })
		b.AddASN1(asn1.SET, func(b *cryptobyte.Builder) {
			b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
				b.AddASN1Int64(1)
				b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
					b.AddBytes(k.Signer.RawIssuer)
					b.AddASN1BigInt(k.Signer.SerialNumber)
				})
				algorithm(b, pkcs7.OIDDigestAlgorithmSHA256)
				b.AddASN1(context0, func(b *cryptobyte.Builder) {
					set, inner := cryptobyte.String(attributes), cryptobyte.String(nil)
					set.ReadASN1(&inner, asn1.SET)
					b.AddBytes(inner)
				})
				algorithm(b, rsaEncryption)
				b.AddASN1OctetString(signature)
			})
		})
	})
	return b.Bytes()
}

// guid is a GUID as it lies in memory, the first three fields with the least byte first.
type guid [16]byte

var (
	x509GUID   = guid{0xa1, 0x59, 0xc0, 0xa5, 0xe4, 0x94, 0xa7, 0x4a, 0x87, 0xb5, 0xab, 0x15, 0x5c, 0x2b, 0xf0, 0x72}
	pkcs7GUID  = guid{0x9d, 0xd2, 0xaf, 0x4a, 0xdf, 0x68, 0xee, 0x49, 0x8a, 0xa9, 0x34, 0x7d, 0x37, 0x56, 0x65, 0xa7}
	globalGUID = guid{0x61, 0xdf, 0xe4, 0x8b, 0xca, 0x93, 0xd2, 0x11, 0xaa, 0x0d, 0x00, 0xe0, 0x98, 0x03, 0x2b, 0x8c}
	imageGUID  = guid{0xcb, 0xb2, 0x19, 0xd7, 0x3a, 0x3d, 0x96, 0x45, 0xa3, 0xbc, 0xda, 0xd0, 0x0e, 0x67, 0x65, 0x6f}
)

// variable is one of the firmware's.
type variable struct {
	name   string
	vendor guid
}

var variables = map[string]variable{PK: {PK, globalGUID}, KEK: {KEK, globalGUID}, DB: {DB, imageGUID}}

// secured are the attributes of these variables: kept, read at boot and later, written with a signature and a time.
const secured = 0x27

// signatureList is an EFI_SIGNATURE_LIST with one certificate.
func signatureList(owner guid, certificate []byte) []byte {
	le := binary.LittleEndian
	b := bytes.Clone(x509GUID[:])
	b = le.AppendUint32(b, uint32(28+16+len(certificate)))
	b = le.AppendUint32(b, 0)
	b = le.AppendUint32(b, uint32(16+len(certificate)))
	return append(append(b, owner[:]...), certificate...)
}

// efiTime is EFI_TIME as authenticated variables want it: to the second, and the rest zero.
func efiTime(t time.Time) []byte {
	t = t.UTC()
	b := make([]byte, 16)
	binary.LittleEndian.PutUint16(b, uint16(t.Year()))
	b[2], b[3], b[4], b[5], b[6] = byte(t.Month()), byte(t.Day()), byte(t.Hour()), byte(t.Minute()), byte(t.Second())
	return b
}

// update is EFI_VARIABLE_AUTHENTICATION_2 and the new content of a variable.
func update(v variable, content []byte, at time.Time, by *Keys) ([]byte, error) {
	le := binary.LittleEndian
	var signed []byte
	for _, u := range utf16.Encode([]rune(v.name)) {
		signed = le.AppendUint16(signed, u)
	}
	signed = append(signed, v.vendor[:]...)
	signed = le.AppendUint32(signed, secured)
	signed = append(append(signed, efiTime(at)...), content...)
	signature, err := signedData(by, pkcs7.OIDData, signed, false)
	if err != nil {
		return nil, err
	}
	const header, revision, kindGUID = 24, 0x0200, 0x0ef1
	out := efiTime(at)
	out = le.AppendUint32(out, uint32(header+len(signature)))
	out = le.AppendUint16(out, revision)
	out = le.AppendUint16(out, kindGUID)
	out = append(append(out, pkcs7GUID[:]...), signature...)
	return append(out, content...), nil
}
