"""Operations on jobs, for the dialects."""
