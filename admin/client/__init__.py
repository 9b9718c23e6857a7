"""What every client of a console needs: an address, a connection, answers, words, colours."""
