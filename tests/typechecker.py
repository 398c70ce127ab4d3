"""The checker that conftest puts on every annotated function: beartype, an int being a float as in PEP 484."""

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
