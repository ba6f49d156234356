"""Products with bits of weights, which the families signs and planes share."""
