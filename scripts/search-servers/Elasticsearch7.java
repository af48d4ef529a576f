import java.util.Collections;
import java.util.List;
import org.elasticsearch.common.settings.Settings;
import org.elasticsearch.node.InternalSettingsPreparer;
import org.elasticsearch.node.Node;
import org.elasticsearch.reindex.ReindexPlugin;
import org.elasticsearch.transport.Netty4Plugin;

/** A node of Elasticsearch 7.17, with setting=value as arguments. It ends with its standard input. */
public class Elasticsearch7 extends Node {
  Elasticsearch7(Settings settings) {
    super(
        InternalSettingsPreparer.prepareEnvironment(
            settings, Collections.emptyMap(), null, () -> "test"),
        List.of(Netty4Plugin.class, ReindexPlugin.class),
        true);
  }

  public static void main(String[] arguments) throws Exception {
    Settings.Builder settings =
        Settings.builder().put("http.type", "netty4").put("transport.type", "netty4");
    for (String argument : arguments) {
      String[] both = argument.split("=", 2);
      settings.put(both[0], both[1]);
    }
    new Elasticsearch7(settings.build()).start();
    while (System.in.read() >= 0) {}
    Runtime.getRuntime().halt(0);
  }
}
