#!/usr/bin/env python3
"""Writes vectors.json, which has tokens that aws-lc-rs cannot sign. pyca/cryptography signs them, and their keys are not kept."""

import base64
import json
import pathlib

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

CLAIMS = {
    "sub": "spiffe://example.org/client",
    "aud": "spiffe://example.org/server",
    "exp": 253402300799,  # the end of the year 9999
}


def base64url(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def number(value, length=None):
    return base64url(value.to_bytes(length or (value.bit_length() + 7) // 8, "big"))


def token(alg, kid, sign):
    parts = [{"alg": alg, "kid": kid, "typ": "JWT"}, CLAIMS]
    message = ".".join(base64url(json.dumps(part).encode()) for part in parts)
    return message + "." + base64url(sign(message.encode()))


def ecdsa(key, digest, half):
    def sign(message):
        r, s = decode_dss_signature(key.sign(message, ec.ECDSA(digest)))
        return r.to_bytes(half, "big") + s.to_bytes(half, "big")

    return sign


def ec_vector(kid, curve, crv, alg, digest, half):
    key = ec.generate_private_key(curve)
    point, length = key.public_key().public_numbers(), (curve.key_size + 7) // 8
    jwk = {"kty": "EC", "kid": kid, "crv": crv, "x": number(point.x, length), "y": number(point.y, length)}
    return {"jwk": jwk, "token": token(alg, kid, ecdsa(key, digest, half))}


def rsa_vector(kid, bits, exponent, alg, pad):
    key = rsa.generate_private_key(exponent, bits)
    public = key.public_key().public_numbers()
    jwk = {"kty": "RSA", "kid": kid, "n": number(public.n), "e": number(public.e)}
    sign = lambda message: key.sign(message, pad, hashes.SHA256())
    return {"jwk": jwk, "token": token(alg, kid, sign)}


def pss(salt):
    return padding.PSS(padding.MGF1(hashes.SHA256()), salt)


pkcs1 = padding.PKCS1v15()
vectors = [
    ec_vector("es384-by-p256", ec.SECP256R1(), "P-256", "ES384", hashes.SHA384(), 48),
    ec_vector("es512-by-p256", ec.SECP256R1(), "P-256", "ES512", hashes.SHA512(), 66),
    ec_vector("es256k", ec.SECP256K1(), "secp256k1", "ES256K", hashes.SHA256(), 32),
    rsa_vector("rsa-1024", 1024, 65537, "RS256", pkcs1),
    rsa_vector("rsa-3", 2048, 3, "RS256", pkcs1),
    rsa_vector("rsa-4096", 4096, 65537, "RS256", pkcs1),
    rsa_vector("salt-32", 2048, 65537, "PS256", pss(32)),
    rsa_vector("salt-0", 2048, 65537, "PS256", pss(0)),
    rsa_vector("salt-max", 2048, 65537, "PS256", pss(padding.PSS.MAX_LENGTH)),
]
path = pathlib.Path(__file__).with_suffix(".json")
path.write_text(json.dumps({vector["jwk"]["kid"]: vector for vector in vectors}, indent=1) + "\n")
