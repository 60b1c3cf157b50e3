"""Operations on jobs for the dialects: submit, read, follow, cancel, delete."""
