# make install | demo | test | fuzz | lint | bench | clean
PYTHON ?= python3
VENV := .venv
# A file's tests run in one process; if that dies, the run ends instead of starting it again.
CORES := -n logical --maxprocesses 4 --dist loadfile --max-worker-restart 0
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# What a window without a screen needs on Debian and Ubuntu: Xvfb, software OpenGL, Qt's libraries.
DISPLAY_PACKAGES := xvfb xauth libgl1 libegl1 libopengl0 libgl1-mesa-dri libdbus-1-3 \
  libfontconfig1 libxkbcommon-x11-0 libxcb-cursor0 libxcb-icccm4 libxcb-image0 libxcb-keysyms1 \
  libxcb-randr0 libxcb-render-util0 libxcb-shape0 libxcb-xkb1 libxcb-xinerama0

.PHONY: install demo test fuzz lint bench display clean

install: $(STAMP)

$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e '.[all,test]'
	touch $(STAMP)

demo: install
	$(BIN)/wsi demo --out demo

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: install display lint
	QT_QPA_PLATFORM=xcb $(BIN)/python -m pytest -q $(CORES) --durations=15
	$(BIN)/python -m pytest -q --nbmake --nbmake-timeout=600 -p no:xvfb notebooks

# 2,000 damaged slides, read by every reader; the tests read 200.
fuzz: install
	$(BIN)/python -m tests.robustness.fuzz_reading --cases 2000

bench: install
	$(BIN)/python benchmarks/scaling.py

# The tests of the viewer draw real windows on a virtual screen.
display:
	@command -v Xvfb >/dev/null && ldconfig -p | grep -q libxcb-cursor || { \
	  command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ] && \
	  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
	    apt-get install -y -qq --no-install-recommends $(DISPLAY_PACKAGES) >/dev/null; } || { \
	  echo "The viewer's tests need Xvfb and Qt's libraries. On Debian or Ubuntu run:"; \
	  echo "  sudo apt-get install --no-install-recommends $(DISPLAY_PACKAGES)"; \
	  echo "Elsewhere install the like; without a screen those tests are skipped."; }; }

clean:
	rm -rf $(VENV) build dist demo .mypy_cache .pytest_cache .ruff_cache .hypothesis
