"""One file per encoder, each with a `SPEC`; a file's name is the encoder's."""
