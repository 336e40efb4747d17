"""Side by side with cellpy, PyProBE, BEEP and rainflow on the same cycler's rows."""
