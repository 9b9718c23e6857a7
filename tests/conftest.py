"""The fixtures every test may ask for; each is defined in the file of its concern below `fixtures`."""

pytest_plugins = [
    "tests.fixtures.cluster",
    "tests.fixtures.process",
    "tests.fixtures.bouncer",
    "tests.fixtures.proxy",
    "tests.fixtures.understudy",
    "tests.fixtures.disk",
    "tests.fixtures.liar",
]
