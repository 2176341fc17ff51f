"""Sealed data: values that only this company's services can read, wherever their bytes end up.

Three layers, each of its own module, none of which knows a database unless its name says so:

`aead`      one key, one format: AES-256-GCM over a value and over the place where it belongs
`ring`      the key that seals now, and the older ones that still open
`wrapping`  where the key above all keys comes from: a file today, a KMS by the same protocol
`index`     blind indexes, so that a sealed value can be looked up
`subjects`  one data key per person, destroyed when the person is forgotten
`columns`   sealed columns of SQLAlchemy (needs the extra `database`)

See docs/adr/0032 and 0033.
"""
