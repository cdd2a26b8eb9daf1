# The five commands of this project. Run them in a virtual environment of Python 3.11.
.PHONY: setup test check docs build

setup:
	pip install -c constraints.txt -e '.[test]'

test:
	pytest -n auto --dist loadfile

check:
	ruff check
	ruff format --check
	mypy
	lint-imports

docs:
	pip install --quiet -e '.[docs]'
	mkdocs build --strict

build:
	pip install --quiet build
	python -m build
