"""Models that other programs trained: their files, read without those programs, turned into ours."""
