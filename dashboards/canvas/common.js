// Names, numbers and colours shared by the drawings. Prepended to each of them.
