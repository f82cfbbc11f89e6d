#!/bin/sh
# Finds what the tests need, and installs what is missing where it may: as root on Debian or Ubuntu. Anywhere else it says
# what to install. The servers themselves are needed, not only their addresses: some tests freeze and kill them. The
# simulator plays the providers, so no key and no account is needed.
set -eu

compose='Without them most tests run against other servers, such as those of `docker compose up -d`:
  TEST_POSTGRES_URL=postgres://postgres:threadhub@127.0.0.1:55432/postgres TEST_REDIS_URL=redis://127.0.0.1:56379 go test ./...'

have() { command -v "$1" >/dev/null 2>&1; }
say() { printf '%s\n' "$*"; }
die() { say "$*" >&2; exit 1; }

# The newest Postgres on this machine, as its number before the first dot; Debian keeps the servers off the PATH.
postgres_version() {
	for p in "$(command -v postgres 2>/dev/null || true)" /usr/lib/postgresql/*/bin/postgres /usr/local/pgsql/bin/postgres /opt/homebrew/opt/postgresql@*/bin/postgres; do
		if [ -n "$p" ] && [ -x "$p" ]; then "$p" --version 2>/dev/null | sed 's/[^0-9]*\([0-9]*\).*/\1/'; fi
	done | sort -n | tail -n 1
}
node_version() { if have node; then node --version | sed 's/v\([0-9]*\).*/\1/'; fi; }
at_least() { [ -n "$1" ] && [ "$1" -ge "$2" ]; }

missing=''
packages=''
lacks() { missing="$missing${missing:+, }$1"; shift; packages="$packages $*"; }

if ! at_least "$(postgres_version)" 15; then lacks 'Postgres 15 or newer' postgresql; fi
if ! have redis-server; then lacks 'redis-server' redis-server; fi
if ! have nginx && ! have /usr/sbin/nginx; then lacks 'nginx' nginx; fi
if ! have node; then lacks 'node 20 or newer' nodejs; fi
if ! have npm; then lacks 'npm' npm; fi
if ! have "${CC:-cc}" && ! have gcc; then lacks 'a C compiler (for the race detector)' gcc libc6-dev; fi

if [ -n "$packages" ]; then
	if [ "$(id -u)" = 0 ] && have apt-get; then
		say "installing:$packages"
		apt-get update -qq
		# shellcheck disable=SC2086 # a list of packages
		DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $packages >/dev/null
	else
		say "make test needs $missing. Install it; as root on Debian or Ubuntu make test does that by itself." >&2
		case "$missing" in *Postgres*|*redis*) say "$compose" >&2 ;; esac
		exit 1
	fi
fi

if ! at_least "$(postgres_version)" 15; then
	die "make test needs Postgres 15 or newer, and this system's packages have only $(postgres_version). $compose"
fi
if ! at_least "$(node_version)" 20; then
	die "make test needs node 20 or newer for the suites that run the OpenAI SDK; this is $(node --version 2>/dev/null || echo none). See https://nodejs.org/en/download"
fi
if ! have npm; then die 'make test needs npm beside node. See https://nodejs.org/en/download'; fi
say "$(go version | cut -d' ' -f3), node $(node --version), npm $(npm --version), Postgres $(postgres_version), $(redis-server --version | sed 's/.*v=\([0-9.]*\).*/Redis \1/')"
