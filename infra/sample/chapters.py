"""Which chapter of the Python library reference documents a module: the labels of the sample.

Written by hand from the table of contents of the reference for Python 3.11, without its last chapters (superseded
modules say nothing about what they are for; platform modules are few). A name stands for the module and, for a
package, for everything in it. ``C_MODULES`` are accelerators and built-in modules that have no Python source: module
that is imported -> documented module that it belongs to.
"""

from __future__ import annotations

CHAPTERS: dict[str, str] = {
    "Built-in functions and types": "builtins",
    "Text processing": "string re difflib textwrap unicodedata stringprep readline rlcompleter",
    "Binary data": "struct codecs encodings",
    "Data types": (
        "datetime zoneinfo calendar collections heapq bisect array weakref types copy pprint reprlib enum graphlib"
    ),
    "Numeric and mathematical": "numbers math cmath decimal fractions random statistics",
    "Functional programming": "itertools functools operator",
    "File and directory access": (
        "pathlib posixpath ntpath genericpath fileinput stat filecmp tempfile glob fnmatch linecache shutil"
    ),
    "Data persistence": "pickle copyreg shelve marshal dbm sqlite3",
    "Compression and archiving": "zlib gzip bz2 lzma zipfile tarfile",
    "File formats": "csv configparser tomllib netrc plistlib",
    "Cryptographic services": "hashlib hmac secrets",
    "Operating system services": "os io time argparse getopt logging getpass curses platform errno ctypes",
    "Concurrent execution": "threading multiprocessing concurrent subprocess sched queue contextvars",
    "Networking and interprocess communication": "asyncio socket ssl select selectors signal mmap",
    "Internet data handling": "email json mailbox mimetypes base64 binascii quopri",
    "Structured markup processing": "html xml",
    "Internet protocols and support": (
        "webbrowser wsgiref urllib http ftplib poplib imaplib smtplib uuid socketserver xmlrpc ipaddress"
    ),
    "Multimedia": "wave colorsys",
    "Internationalization": "gettext locale",
    "Program frameworks": "turtle cmd shlex",
    "Graphical user interfaces with Tk": "tkinter",
    "Development tools": "typing pydoc doctest unittest lib2to3",
    "Debugging and profiling": "bdb faulthandler pdb timeit trace tracemalloc cProfile profile pstats",
    "Software packaging and distribution": "distutils ensurepip venv zipapp",
    "Python runtime services": ("sys sysconfig warnings dataclasses contextlib abc atexit traceback gc inspect site"),
    "Custom interpreters": "code codeop",
    "Importing modules": "zipimport pkgutil modulefinder runpy importlib",
    "Python language services": (
        "ast symtable token keyword tokenize tabnanny pyclbr py_compile compileall dis pickletools"
    ),
    "Unix services": "pwd grp termios tty pty fcntl resource syslog",
}

_BUILT_IN = """
    builtins unicodedata readline array math cmath itertools marshal zlib time errno select mmap binascii faulthandler
    sys atexit gc pwd grp termios fcntl resource syslog
"""
_ACCELERATORS = """
    string struct codecs datetime zoneinfo collections heapq bisect weakref decimal random statistics functools
    operator stat pickle sqlite3 bz2 lzma csv hashlib io curses ctypes queue contextvars multiprocessing asyncio socket
    ssl signal json locale tkinter tracemalloc symtable uuid warnings abc
"""
C_MODULES: dict[str, str] = {
    **{name: name for name in _BUILT_IN.split()},
    **{f"_{name}": name for name in _ACCELERATORS.split()},
    "_sre": "re",
    "_blake2": "hashlib",
    "_sha3": "hashlib",
    "posix": "os",
    "_curses_panel": "curses",
    "_thread": "threading",
    "_posixsubprocess": "subprocess",
    "_posixshmem": "multiprocessing",
    "_elementtree": "xml",
    "pyexpat": "xml",
    "_lsprof": "cProfile",
}


def chapter_of(module: str) -> str | None:
    """Return the chapter that documents ``module`` (a dotted name), ``None`` for modules that are left out."""
    return _CHAPTER_OF_NAME.get(module.partition(".")[0])


def documented() -> list[str]:
    """Return the top-level names that the reference documents."""
    return sorted(_CHAPTER_OF_NAME)


_CHAPTER_OF_NAME = {name: chapter for chapter, names in CHAPTERS.items() for name in names.split()}
