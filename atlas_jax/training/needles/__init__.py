"""Needles in haystacks: does a model, or its memory alone, answer from what it read long before?"""
