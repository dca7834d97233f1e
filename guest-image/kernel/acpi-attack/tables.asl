// Changes a table that the kernel has read, and loads byte code from the guest's memory.
DefinitionBlock ("", "SSDT", 2, "ATTACK", "TABLES", 1)
{
    Device (\_SB.ATTB)
    {
        Name (_HID, "ATCK0003")
        OperationRegion (PORT, SystemIO, 0xE9, 1)
        Field (PORT, ByteAcc, NoLock, Preserve) { OUTB, 8 }
        DataTableRegion (MADT, "APIC", "", "")
        Field (MADT, DWordAcc, NoLock, Preserve)
        {
            Offset (0x24),
            LAPI, 32
        }

        Method (_INI, 0, Serialized)
        {
            OUTB = 0x74 // t: it runs
            LAPI = 0x18000000
            If (LAPI == 0x18000000)
            {
                OUTB = 0x54 // T: the table has changed
            }
        }
    }

    Device (\_SB.ATLD)
    {
        Name (_HID, "ATCK0004")
        OperationRegion (PORT, SystemIO, 0xE9, 1)
        Field (PORT, ByteAcc, NoLock, Preserve) { OUTB, 8 }
        OperationRegion (CODE, SystemMemory, 0x18001000, 0x1000)
        Name (HNDL, 0)

        Method (_INI, 0, Serialized)
        {
            OUTB = 0x6C // l: it runs
            Load (CODE, HNDL)
        }
    }
}
