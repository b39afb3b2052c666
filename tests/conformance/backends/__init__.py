"""One suite for all back ends.

`suite.BackendSuite` has every case. A back end passes it in a module of its own, `test_backend_NAME.py`, which makes a
`place.Place`: where its runs run, with a hand on them. Where back ends differ by nature, the place says what it expects
(`place.Expectations`) and the case asserts that; no case is left out anywhere.
"""
