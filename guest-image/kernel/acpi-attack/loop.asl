// Never ends: loops, waits for what nobody signals, calls itself.
DefinitionBlock ("", "SSDT", 2, "ATTACK", "LOOP", 1)
{
    Device (\_SB.ATLP)
    {
        Name (_HID, "ATCK0005")
        OperationRegion (PORT, SystemIO, 0xE9, 1)
        Field (PORT, ByteAcc, NoLock, Preserve) { OUTB, 8 }

        Method (_INI, 0, Serialized)
        {
            OUTB = 0x65 // e: it runs
            While (One) {}
        }
    }

    Device (\_SB.ATST)
    {
        Name (_HID, "ATCK0008")

        // The kernel asks for it again and again.
        Method (_STA, 0, Serialized)
        {
            While (One) {}
        }
    }

    Device (\_SB.ATEV)
    {
        Name (_HID, "ATCK0006")
        OperationRegion (PORT, SystemIO, 0xE9, 1)
        Field (PORT, ByteAcc, NoLock, Preserve) { OUTB, 8 }
        Event (NEVR)

        Method (_INI, 0, Serialized)
        {
            OUTB = 0x66 // f: it runs
            Wait (NEVR, 0xFFFF)
        }
    }

    Device (\_SB.ATRC)
    {
        Name (_HID, "ATCK0007")
        OperationRegion (PORT, SystemIO, 0xE9, 1)
        Field (PORT, ByteAcc, NoLock, Preserve) { OUTB, 8 }

        Method (SELF)
        {
            SELF ()
        }

        Method (_INI, 0, Serialized)
        {
            OUTB = 0x67 // g: it runs
            SELF ()
        }
    }
}
