"""One short script a command. Each is a sub-command of `tubelet`, and can be started as a file by any launcher."""
