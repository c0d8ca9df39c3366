"""Machine code for functions of rows, on the CPU: several rows at once in the registers of one instruction."""
