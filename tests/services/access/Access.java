import com.healthmarketscience.jackcess.ColumnBuilder;
import com.healthmarketscience.jackcess.DataType;
import com.healthmarketscience.jackcess.Database;
import com.healthmarketscience.jackcess.DatabaseBuilder;
import com.healthmarketscience.jackcess.Row;
import com.healthmarketscience.jackcess.Table;
import com.healthmarketscience.jackcess.TableBuilder;
import com.healthmarketscience.jackcess.crypt.CryptCodecProvider;
import java.io.BufferedReader;
import java.io.File;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;

/** Writes an Access database from its description on standard input, or prints a table of one. */
public class Access {
  public static void main(String[] words) throws Exception {
    if (words[0].equals("read")) {
      read(new File(words[1]), words[2]);
    } else {
      write(new File(words[1]), Database.FileFormat.valueOf(words[2]));
    }
  }

  /** Lines of words with tabs between: table, row, column, delete and set, on the last table. */
  private static void write(File file, Database.FileFormat format) throws Exception {
    BufferedReader in =
        new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
    try (Database base =
        new DatabaseBuilder(file).setFileFormat(format).setAutoSync(false).create()) {
      Table table = null;
      List<String> kinds = new ArrayList<>();
      for (String line = in.readLine(); line != null; line = in.readLine()) {
        String[] words = line.split("\t", -1);
        switch (words[0]) {
          case "table":
            TableBuilder made = new TableBuilder(words[1]);
            kinds.clear();
            for (int at = 2; at < words.length; at += 2) {
              made.addColumn(new ColumnBuilder(words[at], DataType.valueOf(words[at + 1])));
              kinds.add(words[at + 1]);
            }
            table = made.toTable(base);
            break;
          case "row":
            Object[] values = new Object[kinds.size()];
            for (int at = 0; at < values.length; at++) {
              values[at] = value(kinds.get(at), words[at + 1]);
            }
            table.addRow(values);
            break;
          case "column":
            new ColumnBuilder(words[1], DataType.valueOf(words[2])).addToTable(table);
            kinds.add(words[2]);
            break;
          case "delete":
            for (Row row : where(table, words[1], words[2])) {
              table.deleteRow(row);
            }
            break;
          case "set":
            for (Row row : where(table, words[1], words[2])) {
              row.put(words[3], words[4]);
              table.updateRow(row);
            }
            break;
          default:
            throw new IllegalArgumentException(line);
        }
      }
    }
  }

  private static List<Row> where(Table table, String column, String value) {
    List<Row> found = new ArrayList<>();
    for (Row row : table) {
      if (String.valueOf(row.get(column)).equals(value)) {
        found.add(row);
      }
    }
    return found;
  }

  private static Object value(String kind, String text) {
    if (text.isEmpty()) {
      return null;
    }
    switch (kind) {
      case "BYTE":
      case "INT":
      case "LONG":
        return Integer.valueOf(text);
      case "FLOAT":
        return Float.valueOf(text);
      case "DOUBLE":
        return Double.valueOf(text);
      default:
        return text;
    }
  }

  private static void read(File file, String name) throws Exception {
    try (Database base =
        new DatabaseBuilder(file)
            .setReadOnly(true)
            .setCodecProvider(new CryptCodecProvider())
            .open()) {
      for (Row row : base.getTable(name)) {
        List<String> words = new ArrayList<>();
        for (Object value : row.values()) {
          words.add(String.valueOf(value));
        }
        System.out.println(String.join("\t", words));
      }
    }
  }
}
