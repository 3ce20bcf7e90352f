"""The figures of the CAMELYON16 and CAMELYON17 challenges, from the challenges' own files."""
