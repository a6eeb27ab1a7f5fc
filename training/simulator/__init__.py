"""A xenon time projection chamber: recoil spectra, yields, quanta, signals, reconstruction; torch only, any theta."""
