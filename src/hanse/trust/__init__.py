"""Who is who: the federation's authority, members' keys, join tokens, signatures, sealed payloads, the audit log
and app bundles. Functions and small values over `cryptography`; nothing here opens a socket.

    certificates   the identity inside a certificate, written and read back
    authority      issues certificates and member records
    revocation     which of them hold no longer
    identity       a member's own keys, and the request it sends
    membership     what a member keeps in its directory
    member_record  what the authority says about a member's three keys
    tokens         one-time invitations
    statements     signed JSON
    strict_json    JSON from outside, read strictly
    signing        Ed25519 and ECDSA with a context
    sealing        payloads that only the recipient opens
    sessions       keys for one session between two sites, and its pieces
    audit          a hash-chained, signed log
    bundle         an app as one verifiable file
    bundle_signature  a person's word for a bundle
    private_files  files that only their owner reads
"""
